"""The domain of the reproduction: what each stage means, without Prefect."""
