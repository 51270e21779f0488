"""The program that thoughts run, written from interventions and graded by them."""
