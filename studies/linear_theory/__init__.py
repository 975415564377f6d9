"""Random feedback that is updated, in linear networks: Amit 2018, section 3, in numbers."""
