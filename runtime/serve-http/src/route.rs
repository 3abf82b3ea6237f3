//! Which listener has which routes, matched by hand: there are few, and none is built at run time.

use crate::problem::Problem;
use crate::uri::decode;
use hyper::Method;

/// Which of the three listeners a request came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// Features, registry, events.
    Main,
    /// What changes something.
    Admin,
    /// Metrics.
    Metrics,
}

impl Listener {
    fn name(self) -> &'static str {
        match self {
            Listener::Main => "serve.listen",
            Listener::Admin => "serve.admin_listen",
            Listener::Metrics => "serve.metrics_listen",
        }
    }
}

/// A matched route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Vector,
    Batch,
    Entity { entity: String, id: String },
    Online { id: String },
    Offline { id: String },
    Registry,
    RegistrySearch,
    RegistryView { view: String },
    Lineage { view: String },
    Events,
    Transforms,
    Deploy,
    Rollback { view: String },
    Retire { view: String },
    Commit,
    Materialize,
    Materializing,
    StopMaterializing,
    Health,
    Ready,
    Metrics,
}

impl Route {
    /// The route as a label: its pattern, never a path with keys in it.
    pub(crate) fn pattern(&self) -> &'static str {
        match self {
            Route::Vector => "/features/vector",
            Route::Batch => "/features/batch",
            Route::Entity { .. } => "/features/{entity}/{id}",
            Route::Online { .. } => "/features/online/{user_id}",
            Route::Offline { .. } => "/features/offline/{user_id}",
            Route::Registry => "/registry",
            Route::RegistrySearch => "/registry/search",
            Route::RegistryView { .. } => "/registry/{view}",
            Route::Lineage { .. } => "/registry/{view}/lineage",
            Route::Events => "/events",
            Route::Transforms | Route::Deploy => "/transforms",
            Route::Rollback { .. } => "/transforms/{name}/rollback",
            Route::Retire { .. } => "/transforms/{name}",
            Route::Commit => "/commit",
            Route::Materialize | Route::Materializing | Route::StopMaterializing => "/materialize/state",
            Route::Health => "/health",
            Route::Ready => "/ready",
            Route::Metrics => "/metrics",
        }
    }
}

/// The methods of a path, with the route of each.
enum Methods {
    Get(Route),
    Post(Route),
    GetAndPost(Route, Route),
    Delete(Route),
    GetPostDelete(Route, Route, Route),
}

/// Finds the route of a request; 404 and 405 are problems.
pub(crate) fn find(listener: Listener, method: &Method, path: &str) -> Result<Route, Problem> {
    let Some((home, methods)) = methods(path)? else {
        return Err(Problem::no_route(format!("there is no `{path}`")));
    };
    if let Some(home) = home
        && home != listener
    {
        return Err(Problem::no_route(format!("`{path}` is on another listener, {}", home.name())));
    }
    let reads = method == Method::GET || method == Method::HEAD;
    let posts = method == Method::POST;
    match methods {
        Methods::Get(route) | Methods::GetAndPost(route, _) | Methods::GetPostDelete(route, _, _) if reads => Ok(route),
        Methods::Post(route) | Methods::GetAndPost(_, route) | Methods::GetPostDelete(_, route, _) if posts => {
            Ok(route)
        }
        Methods::Delete(route) | Methods::GetPostDelete(_, _, route) if method == Method::DELETE => Ok(route),
        Methods::GetPostDelete(..) => Err(Problem::method_not_allowed("GET, HEAD, POST, DELETE")),
        Methods::Delete(_) => Err(Problem::method_not_allowed("DELETE")),
        Methods::Get(_) => Err(Problem::method_not_allowed("GET, HEAD")),
        Methods::Post(_) => Err(Problem::method_not_allowed("POST")),
        Methods::GetAndPost(..) => Err(Problem::method_not_allowed("GET, HEAD, POST")),
    }
}

/// The listener of a path (`None` = all) and its methods.
fn methods(path: &str) -> Result<Option<(Option<Listener>, Methods)>, Problem> {
    let mut segments = Vec::new();
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        segments.push(decode(segment)?);
    }
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let main = |methods| Some((Some(Listener::Main), methods));
    let owned = |text: &str| text.to_owned();
    Ok(match segments.as_slice() {
        ["features", "vector"] => main(Methods::Post(Route::Vector)),
        ["features", "batch"] => main(Methods::Post(Route::Batch)),
        ["features", "online", id] if !id.is_empty() => main(Methods::Get(Route::Online { id: owned(id) })),
        ["features", "offline", id] if !id.is_empty() => main(Methods::Get(Route::Offline { id: owned(id) })),
        ["features", entity, id] if !entity.is_empty() && !id.is_empty() => {
            main(Methods::Get(Route::Entity { entity: owned(entity), id: owned(id) }))
        }
        ["registry"] => main(Methods::Get(Route::Registry)),
        ["registry", "search"] => main(Methods::Get(Route::RegistrySearch)),
        ["registry", view] if !view.is_empty() => main(Methods::Get(Route::RegistryView { view: owned(view) })),
        ["registry", view, "lineage"] => main(Methods::Get(Route::Lineage { view: owned(view) })),
        ["events"] => main(Methods::Post(Route::Events)),
        ["transforms"] => Some((Some(Listener::Admin), Methods::GetAndPost(Route::Transforms, Route::Deploy))),
        ["transforms", view] if !view.is_empty() => {
            Some((Some(Listener::Admin), Methods::Delete(Route::Retire { view: owned(view) })))
        }
        ["transforms", view, "rollback"] if !view.is_empty() => {
            Some((Some(Listener::Admin), Methods::Post(Route::Rollback { view: owned(view) })))
        }
        ["materialize", "state"] => Some((
            Some(Listener::Admin),
            Methods::GetPostDelete(Route::Materializing, Route::Materialize, Route::StopMaterializing),
        )),
        ["commit"] => Some((Some(Listener::Admin), Methods::Post(Route::Commit))),
        ["metrics"] => Some((Some(Listener::Metrics), Methods::Get(Route::Metrics))),
        ["health"] => Some((None, Methods::Get(Route::Health))),
        ["ready"] => Some((None, Methods::Get(Route::Ready))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_find_their_routes() {
        let found =
            |listener, method: Method, path| find(listener, &method, path).map_err(|problem| problem.status.as_u16());
        let (main, admin, metrics) = (Listener::Main, Listener::Admin, Listener::Metrics);
        assert_eq!(found(main, Method::POST, "/features/vector"), Ok(Route::Vector));
        let entity = Route::Entity { entity: "user".into(), id: "a/b c".into() };
        assert_eq!(found(main, Method::GET, "/features/user/a%2Fb%20c"), Ok(entity));
        assert_eq!(found(main, Method::GET, "/features/online/u1"), Ok(Route::Online { id: "u1".into() }));
        assert_eq!(found(main, Method::HEAD, "/health"), Ok(Route::Health));
        assert_eq!(found(admin, Method::POST, "/transforms"), Ok(Route::Deploy));
        assert_eq!(found(admin, Method::DELETE, "/transforms/v"), Ok(Route::Retire { view: "v".into() }));
        assert_eq!(found(admin, Method::POST, "/transforms/v/rollback"), Ok(Route::Rollback { view: "v".into() }));
        assert_eq!(found(metrics, Method::GET, "/metrics"), Ok(Route::Metrics));
        assert_eq!(found(admin, Method::POST, "/materialize/state"), Ok(Route::Materialize));
        assert_eq!(found(admin, Method::GET, "/materialize/state"), Ok(Route::Materializing));
        assert_eq!(found(admin, Method::DELETE, "/materialize/state"), Ok(Route::StopMaterializing));
        for (listener, method, path, status) in [
            (main, Method::GET, "/features/vector", 405),
            (main, Method::DELETE, "/events", 405),
            (main, Method::POST, "/features/user/u1", 405),
            (main, Method::GET, "/transforms", 404),
            (main, Method::DELETE, "/transforms/v", 404),
            (admin, Method::GET, "/transforms/v", 405),
            (admin, Method::DELETE, "/transforms", 405),
            (admin, Method::DELETE, "/transforms/", 404),
            (main, Method::POST, "/materialize/state", 404),
            (admin, Method::PUT, "/materialize/state", 405),
            (admin, Method::POST, "/materialize", 404),
            (admin, Method::GET, "/transforms/v/rollback", 405),
            (main, Method::GET, "/metrics", 404),
            (admin, Method::POST, "/features/vector", 404),
            (main, Method::GET, "/", 404),
            (main, Method::GET, "", 404),
            (main, Method::GET, "/features", 404),
            (main, Method::GET, "/features/user/", 404),
            (main, Method::GET, "/features/user/u1/", 404),
            (main, Method::GET, "/features//u1", 404),
            (main, Method::GET, "/features/user/%ff", 400),
            (main, Method::GET, "/../etc/passwd", 404),
        ] {
            assert_eq!(found(listener, method, path), Err(status), "{path}");
        }
    }
}
