"""The networks that can be trained, one file per network, behind one interface."""
