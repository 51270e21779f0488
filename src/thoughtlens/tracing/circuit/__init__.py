"""The stage circuit: which thought makes which, every edge tried by an intervention."""
