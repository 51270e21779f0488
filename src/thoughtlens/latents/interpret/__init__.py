"""The interpret stage: what each latent responds to, from one encoding pass over the store.

The pass streams the sparse codes to disk, by vector and by latent (`latents.codes`); every table is then
computed from there, latent by latent, so that quantiles are exact, memory does not grow with the store's
activations, and a killed stage goes on after the last table it finished.
"""
