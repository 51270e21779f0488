"""Variables of problems: where states hold them, and which latents of a dictionary speak for their values."""
