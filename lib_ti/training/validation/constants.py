"""The numbers of validation, early stop and the checks of a training's health, in one place to be tuned."""

from __future__ import annotations

# --- which pictures ------------------------------------------------------------------------------------------------
HOLD_BACK_FROM = 12  # pictures; with fewer, each is too valuable not to be trained on
HELD_BACK_SHARE = 0.1
MIN_HELD_BACK, MAX_HELD_BACK = 2, 8

# --- how often, and on how much ------------------------------------------------------------------------------------
MAX_TIME_SHARE = 0.1  # of a run's time for the losses; encoding pictures that are held back costs what it would anyway
FORWARD_SHARE = 0.5  # of a training step's time for the loss of one image; the frozen model has no weight gradients
MIN_VALIDATIONS, MAX_VALIDATIONS = 2, 12  # beside the one at step 0
MIN_TRIPLES, WANTED_TRIPLES, MAX_TRIPLES = 4, 16, 64

# --- the best step -------------------------------------------------------------------------------------------------
TIE_STANDARD_ERRORS = 1.0  # a loss that is no more above the lowest is as good: the "one standard error rule"
# A step is better than another if its loss is lower by more than so many standard errors of the difference, and by more than a
# share of what the loss has fallen by since step 0.
IMPROVEMENT_STANDARD_ERRORS = 1.0
MIN_IMPROVEMENT_HELD_BACK = 0.01
MIN_IMPROVEMENT_TRAINED = 0.05  # on pictures that are trained on, where what is learned by heart lowers the loss too

# --- early stop ----------------------------------------------------------------------------------------------------
MIN_TRAINED_SHARE = 0.4  # of the planned steps, before which a training does not stop by itself
PATIENCE = 3  # validations in a row that are no better than the best
COOLDOWN_SHARE = 0.15  # of the steps done, in which the learning rate falls to zero at the end
MIN_COOLDOWN_STEPS = 10

# --- health --------------------------------------------------------------------------------------------------------
OVERTRAINED_VALIDATIONS = 2  # in a row that are significantly above the best, before a warning
MAX_NORM_RATIO = 15.0  # of a vector's norm to the vocabulary's 99th percentile
MAX_RATE_RATIO = 50.0  # of a learning rate to "auto"
ROLLBACK_INTERVAL = 20  # steps between the states that a training can go back to
ROLLBACK_RATE_FACTOR = 0.25  # that the learning rate is multiplied by when it does
MAX_FAILURES = 3  # in a row; the last one ends the training
