"""Other defaults for the options of config.py, chosen by --preset."""

from pathlib import Path

from zorse.config.schema import Config, Images, Networks, Optimization, Run

PRESETS = {
    "paper": Config(),
    "demo": Config(
        preset="demo",
        images=Images(load_size=68, crop_size=64),
        networks=Networks(generator_channels=24, generator_blocks=4, discriminator_channels=32, discriminator_layers=2),
        optimization=Optimization(epochs=2, decay_epochs=2.5, lr=5e-4),
        run=Run(
            data="runs/demo/shards",
            out=Path("runs/demo"),
            workers=1,
            status_every=60,
            sample_every=360,
            evaluate_every=810,
            checkpoint_every=360,
            sample_images=8,
        ),
    ),
    "quick": Config(
        preset="quick",
        # Crops of an image twice as large show its texture, which is most of what can be learned in little time.
        images=Images(load_size=136, crop_size=64, test_size="load"),
        # Instance norms would take the brightness out of crops, and half of what comes back wrong would be that.
        networks=Networks(generator_channels=24, discriminator_channels=32, upsample="resize", norm="none"),
        optimization=Optimization(epochs=6, decay_epochs=6, lr=4e-4, ema_pairs=1000),
        run=Run(workers=1, status_every=50, sample_every=1000, evaluate_every=5000, checkpoint_every=1000),
    ),
}
