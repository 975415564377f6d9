"""Sign-symmetric wiring by ligands and receptors: Xiao et al. 2018, section 4.3 and figure 4."""
