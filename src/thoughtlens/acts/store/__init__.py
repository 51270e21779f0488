"""An activation store on disk: what it says of itself, reading and writing it."""
