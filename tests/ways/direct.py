"""The ways of the other files under direct feedback alignment, where its errors can go them.

What it refuses is in `tests/conversion/test_output_layer.py` and
`tests/layers/test_direct_models.py`. Ways of other rules' callbacks, and with them, are left out.
"""

import dataclasses

from tests.ways import building, keeping, training  # noqa: F401  # they fill the table
from tests.ways.entry import WAYS

QUICK = ("own_loop_with_a_tape", "siamese")
ALSO = (
    *("averaged_weights", "batch_norm_and_dropout", "checkpoint_restored", "cloned"),
    *("composite_cloned", "composite_copied", "composite_saved_and_loaded", "copied"),
    *("converted_behind_gc_freeze", "converted_stripped_and_converted"),
    *("error_of_an_activity_regularizer", "evaluated_and_asked_before_it_is_converted"),
    *("exported_before_it_trains", "feedback_set_anew_between_fits", "fit_then_convert_then_fit"),
    *("gradients_accumulate", "jit_compile", "loss_scaling", "made_from_its_config"),
    *("mirrored_strategy", "mixed_bfloat16", "model_checkpoint_and_load"),
    *("own_loop_that_evaluates_first", "part_of_a_model_around_it", "pickled", "run_eagerly"),
    *("saved_as_h5", "spectral_normalization", "steps_per_execution"),
    *("subclass_whose_call_takes_no_training", "train_on_batch"),
    *("trained_in_another_thread", "two_inputs_by_name", "untied_after_converting"),
    *("variational_autoencoder", "weights_of_samples_and_classes", "weights_saved_and_loaded"),
)

for name in (*QUICK, *ALSO):
    entry = dataclasses.replace(WAYS[name], rule="dfa", slow=name not in QUICK)
    WAYS[f"direct_{name}"] = entry
