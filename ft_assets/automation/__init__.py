"""What runs by itself: sensors that ingest new data and ask for retraining. Off unless the deployment turns them on."""
