"""Who moves whom: what an edit of one thought changes in each later one, and in the answer."""
