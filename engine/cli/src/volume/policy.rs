//! What is asked of a volume, as arguments.

use clap::{Args, ValueEnum};
use lockstep_api::proto;

use crate::arguments;

/// What is asked of a volume.
#[derive(Args)]
pub struct PolicyArgs {
    /// How many copies where: '2', 'a=2,b=1', '*=1'
    #[arg(long, value_name = "GRAMMAR")]
    copies: Option<String>,
    /// The narrowest level that no two copies share
    #[arg(long, value_enum)]
    fault_domain: Option<FaultDomainArg>,
    /// What is promised when a site is gone
    #[arg(long, value_enum)]
    rpo: Option<RpoArg>,
    /// Decides only what has no live primary; empty for none
    #[arg(long, value_name = "SITE", value_parser = arguments::site_or_none)]
    preferred_site: Option<String>,
    /// How hard pods are kept on a node with a copy
    #[arg(long, value_enum)]
    locality: Option<LocalityArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FaultDomainArg {
    Site,
    Zone,
    Rack,
    Node,
}

#[derive(Clone, Copy, ValueEnum)]
enum RpoArg {
    /// Writes wait rather than stand in fewer sites than promised
    Strict,
    /// Continue on certified copies once the loss is committed
    WitnessedDegrade,
}

#[derive(Clone, Copy, ValueEnum)]
enum LocalityArg {
    /// Where there is a copy if that can be
    Prefer,
    /// Only where there is a copy
    Require,
    /// Anywhere
    None,
}

impl From<PolicyArgs> for proto::Policy {
    fn from(args: PolicyArgs) -> Self {
        let fault_domain = match args.fault_domain {
            None => proto::FaultDomain::Unspecified,
            Some(FaultDomainArg::Site) => proto::FaultDomain::Site,
            Some(FaultDomainArg::Zone) => proto::FaultDomain::Zone,
            Some(FaultDomainArg::Rack) => proto::FaultDomain::Rack,
            Some(FaultDomainArg::Node) => proto::FaultDomain::Node,
        };
        let rpo = match args.rpo {
            None => proto::Rpo::Unspecified,
            Some(RpoArg::Strict) => proto::Rpo::Strict,
            Some(RpoArg::WitnessedDegrade) => proto::Rpo::WitnessedDegrade,
        };
        let locality = match args.locality {
            None => proto::Locality::Unspecified,
            Some(LocalityArg::Prefer) => proto::Locality::Prefer,
            Some(LocalityArg::Require) => proto::Locality::Require,
            Some(LocalityArg::None) => proto::Locality::None,
        };
        Self {
            copies: args.copies,
            fault_domain: fault_domain.into(),
            preferred_site: args.preferred_site,
            rpo: rpo.into(),
            locality: locality.into(),
        }
    }
}
