"""The geometry stage: nearest latents, and latents that SAEs share."""
