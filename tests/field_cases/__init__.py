"""Programs as users wrote them in public, in lines of our own; docs/field_cases.md has their figures."""
