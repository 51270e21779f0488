"""A local server: latents of what is typed."""
