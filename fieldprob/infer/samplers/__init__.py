"""MCMC kernels that NumPyro lacks, one file a family; `base` is what they share, `tempering` goes around any of them.

Names are imported from `fieldprob.infer`, which loads each family when it is first used.
"""
