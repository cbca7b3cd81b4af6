"""What is generated around the chart: its schema and README, its CRD templates, and manifests/install."""
