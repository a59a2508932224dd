"""Convert source images to shards in four steps: inspect, plan, write, commit."""
