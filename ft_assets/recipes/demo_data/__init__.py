"""The demo's bundled sources, and the seeded generator that wrote them (``python -m ft_assets.recipes.demo_data``)."""
