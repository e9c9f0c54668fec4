//! Attacks on proposals and crashes between the steps of a decision.

mod attacks;
mod crashes;
mod world;

use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{Ask, Policy, ProposalState, RouteAsk, SuperviseCommand};
use tokio::sync::{mpsc, oneshot};

use super::broker::*;
use super::checks::{Guard, Step};
use super::*;
use crate::checks::Checks;
use crate::plan::LaunchPlan;
use crate::state::{BottleDir, now_ms, private_dir};
