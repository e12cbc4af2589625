"""One module for each experiment of `vbon lab`, with what vbon.lab.experiment.Experiment asks for."""
