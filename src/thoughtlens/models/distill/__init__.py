"""Train a CODI: teacher chain of thought, distillation at the answer, a target per thought."""
