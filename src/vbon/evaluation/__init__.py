"""How close one sample comes to best-of-N: policies, the reference and the target on held-out prompts."""
