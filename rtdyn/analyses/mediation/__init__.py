"""What an ablation does to the model's confidence and to the unigram direction."""
