"""Presets: one TOML file each, with its source and the settings tuned for single environments."""
