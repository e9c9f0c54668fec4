//! Attacks on proposals and crashes between the steps of a decision.

mod attacks;
mod crashes;
mod fixture;

use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{Ask, Policy, ProposalState, RouteAsk, SuperviseCommand};
use tokio::sync::{mpsc, oneshot};

use super::broker::run;
use super::checks::{Check, Step};
use super::outcome::*;
use super::state::*;
use super::*;
use crate::checks::Checks;
use crate::host::fs::private_dir;
use crate::plan::LaunchPlan;
use crate::state::{BottleDir, now_ms};
