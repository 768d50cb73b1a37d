"""Other defaults for the options of schema.py, chosen by --preset."""

from pathlib import Path

from zorse.config.schema import Checkpointing, Config, Data, Evaluation, Images, Networks, Optimization, Output

PRESETS = {
    "paper": Config(),
    "demo": Config(
        preset="demo",
        data=Data(path="runs/demo/shards", workers=1),
        output=Output(out=Path("runs/demo"), log_every=60, sample_every=360, sample_images=8),
        images=Images(load_size=68, crop_size=64),
        networks=Networks(generator_channels=24, generator_blocks=4, discriminator_channels=32, discriminator_layers=2),
        optimization=Optimization(epochs=2, decay_epochs=2.5, lr=5e-4),
        evaluation=Evaluation(evaluate_every=810),
        checkpointing=Checkpointing(checkpoint_every=360),
    ),
    "quick": Config(
        preset="quick",
        data=Data(workers=1),
        output=Output(log_every=50, sample_every=1000),
        # Crops of an image twice as large show its texture, which is most of what can be learned in little time.
        images=Images(load_size=136, crop_size=64, test_size="load"),
        # Instance norms would remove the brightness of small crops, and half of the reconstruction error would be that.
        networks=Networks(generator_channels=24, discriminator_channels=32, upsample="resize", norm="centred"),
        optimization=Optimization(epochs=6, decay_epochs=6, lr=1e-4, ema_pairs=1000),
        evaluation=Evaluation(evaluate_every=5000),
        checkpointing=Checkpointing(checkpoint_every=1000),
    ),
}
