"""The mixin and plug_in."""
