"""What several protocols share: features, heads, accuracies, fine-tuning."""
