"""Image encoders and report decoders behind one interface."""
