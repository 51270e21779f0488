"""The stage graph: of one problem which latent makes which, every edge tried by an intervention."""
