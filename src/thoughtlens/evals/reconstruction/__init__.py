"""The validate stage: what reconstructions are worth on held-out rows."""
