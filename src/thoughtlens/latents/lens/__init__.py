"""The lens stage: what states and latents say through the unembedding."""
