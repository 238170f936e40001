//! Pools.

use lockstep_api::error::{self, status};
use lockstep_api::proto::pools_server::Pools;
use lockstep_api::{proto, show, wish};
use lockstep_control::Command;
use tonic::{Code, Request, Response, Status};

use super::{Shared, view};
use crate::pool::create::{CreatePool, create};
use crate::units::Size;

#[tonic::async_trait]
impl Pools for Shared {
    async fn list(
        &self,
        request: Request<proto::ListPoolsRequest>,
    ) -> Result<Response<proto::ListPoolsReply>, Status> {
        let named = request.into_inner().node;
        let state = self.control().state();
        let only = match named.as_str() {
            "" => None,
            named => Some(wish::node(&state, named)?.id),
        };
        let pools = state
            .pools
            .values()
            .filter(|pool| only.is_none_or(|node| pool.node == node));
        let shown = pools.map(|pool| {
            let failed = view::pool_failure(self.control(), pool.device);
            show::pool(&state, pool, failed.as_deref())
        });
        Ok(Response::new(proto::ListPoolsReply {
            pools: shown.collect(),
        }))
    }

    async fn add(
        &self,
        request: Request<proto::AddPoolRequest>,
    ) -> Result<Response<proto::AddPoolReply>, Status> {
        self.bridge()?;
        let request = request.into_inner();
        let (directory, control) = (self.inner.directory.clone(), self.control().clone());
        let cluster = control.state().cluster.as_ref().map(|cluster| cluster.id);
        let Some(cluster) = cluster else {
            return Err(status(
                Code::Unavailable,
                error::UNAVAILABLE,
                "this node has no cluster yet",
            ));
        };
        let node = control.node();
        // Formatting writes the whole journal: not on a thread that others wait for.
        let made = tokio::task::spawn_blocking(move || {
            let path = std::path::Path::new(&request.path);
            let size = (request.bytes > 0).then_some(Size(request.bytes));
            let new = CreatePool {
                name: &request.name,
                path,
                size,
                journal: None,
                overwrite: None,
            };
            create(&directory, cluster, node, &new, &mut |_, _| {}).map(|made| (made, request.name))
        });
        let (made, name) = made
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| status(Code::FailedPrecondition, error::INVALID, format!("{e:#}")))?;
        let pool = lockstep_control::Pool {
            device: made.device,
            node,
            name,
            extents: made.extents,
            free_extents: made.extents,
            places: made.places,
        };
        // Committed when the daemon opens it, at its next start.
        let shown = show::pool(
            &control.state(),
            &pool,
            Some("the daemon opens it at its next start"),
        );
        Ok(Response::new(proto::AddPoolReply { pool: Some(shown) }))
    }

    async fn remove(
        &self,
        request: Request<proto::RemovePoolRequest>,
    ) -> Result<Response<proto::RemovePoolReply>, Status> {
        let request = request.into_inner();
        let device = wish::pool(&self.control().state(), &request.node, &request.pool)?.device;
        self.propose(Command::RemovePool { device }).await?;
        Ok(Response::new(proto::RemovePoolReply {}))
    }
}
