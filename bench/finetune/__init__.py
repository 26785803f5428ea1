"""Fine-tuning: speed beside its peers, and what kills cost."""
