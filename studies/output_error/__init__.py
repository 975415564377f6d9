"""A circuit of three neurons that computes the error of a class: Amit 2018, section 2.3."""
