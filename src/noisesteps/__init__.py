"""Find out how many noise steps a diffusion model needs, and what each costs."""
