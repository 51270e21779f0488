"""Files for Neuronpedia."""
