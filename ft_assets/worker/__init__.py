"""What runs in a pod: one process (or one per GPU, under torchrun) that does a stage's work and commits its artifact."""
