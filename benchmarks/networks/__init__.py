"""Networks of many kinds, to fit universal tables on and to measure samplers with: shipped, third-party and exact."""
