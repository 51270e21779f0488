"""The convert stage: an SAE of one format as an SAE of another, with proof."""
