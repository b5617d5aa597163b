"""Tables fitted on many networks at once, as data, and what makes a sampler for one network of them."""
