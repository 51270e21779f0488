"""Finetune: an SAE trained a little further on what the model loses, beside as much more squared error."""
