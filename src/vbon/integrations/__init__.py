"""vBoN inside other trainers: a reward callable and the settings that make the host maximise −KL(π_θ‖π_bon).

Every host maximises E[reward] − β·KL(π_θ‖π_ref). Feed it ρ = log W_N/(N−1) with β = 1/(N−1), fixed.
"""
