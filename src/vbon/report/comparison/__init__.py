"""The comparison of a sweep's methods: reads the sweep's folder, trains and samples nothing."""
