"""The stage textgraph: of one text, or of several, which latent of a language model makes which."""
