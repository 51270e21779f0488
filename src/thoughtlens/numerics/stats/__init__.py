"""How sure a number is, and whether two differ: intervals, paired tests, power, and the verdict.

Numpy and scipy only.
"""
