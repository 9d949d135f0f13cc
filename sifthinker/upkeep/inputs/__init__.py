"""What a configuration needs from elsewhere: where it is published, whether it is here, and fetching it (`sif data`)."""
