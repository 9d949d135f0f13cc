"""What everything speaks of: records and tables, boxes, chains, depth maps, pictures, prompts. No torch, no network."""
