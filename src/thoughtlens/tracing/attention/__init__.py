"""Who looks at whom: the attention of thoughts and answer, by problem and over all of them."""
