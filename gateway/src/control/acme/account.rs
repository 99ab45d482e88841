//! The account with a certificate authority: made once, and kept.

use instant_acme::{Account, AccountBuilder, AccountCredentials, Error, ExternalAccountKey, NewAccount};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::LOCK;
use super::client::{CaClient, Pause};
use super::failure::Failure;
use super::schedule::Fault;
use crate::config::model::Acme;
use crate::control::store::{Store, segment};

/// Opens accounts of one `[[acme]]` table.
pub struct Accounts<'a> {
    settings: &'a Acme,
    store: &'a Store,
    /// Held while an account is made: the second certificate uses the one that the first has made.
    one: &'a Mutex<()>,
    asked: Pause,
}

impl<'a> Accounts<'a> {
    /// `asked` hears how long the authority wants to be left in peace.
    pub fn new(settings: &'a Acme, store: &'a Store, one: &'a Mutex<()>, asked: Pause) -> Accounts<'a> {
        Accounts { settings, store, one, asked }
    }

    /// The account that is kept, or else a new one.
    pub async fn open(&self) -> Result<Account, Failure> {
        let _one = self.one.lock().await;
        match self.find().await? {
            Some(account) => Ok(account),
            None => self.create(None).await,
        }
    }

    /// An account in place of one that the authority does not know any more.
    pub async fn replace(&self, unknown: &Account) -> Result<Account, Failure> {
        let _one = self.one.lock().await;
        self.create(Some(unknown.id())).await
    }

    /// The account that is kept, if there is one.
    pub async fn find(&self) -> Result<Option<Account>, Failure> {
        match self.kept().await? {
            Some(credentials) => Ok(Some(self.builder().from_credentials(credentials).await?)),
            None => Ok(None),
        }
    }

    /// Makes an account and keeps it in place of the one before, unless somebody else was quicker.
    async fn create(&self, unknown: Option<&str>) -> Result<Account, Failure> {
        let settings = self.settings;
        let lock = self.store.lock(&format!("acme-{}", segment(&settings.name)), LOCK).await?;
        let Some(_lock) = lock else {
            return Err(Failure::new(Fault::Away, "another box makes the account right now".into()));
        };
        if let Some(account) = self.find().await?.filter(|account| Some(account.id()) != unknown) {
            return Ok(account);
        }
        let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
        // It was agreed to, or the configuration would have been refused.
        let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = settings.external_account.as_ref();
        let external = external.map(|account| ExternalAccountKey::new(account.key_id.clone(), &account.hmac_key));
        let directory = settings.directory_url.clone();
        let (account, credentials) = self.builder().create(&wanted, directory, external.as_ref()).await?;
        let kept = Zeroizing::new(serde_json::to_vec(&credentials).map_err(Error::from)?);
        self.store.put(&self.key(), &kept).await?;
        log::info!("acme `{}`: account {} was made", settings.name, account.id());
        Ok(account)
    }

    /// That of another directory is of no use.
    async fn kept(&self) -> Result<Option<AccountCredentials>, Failure> {
        let Some(bytes) = self.store.get(&self.key()).await?.map(Zeroizing::new) else { return Ok(None) };
        let directory = |bytes: &[u8]| -> Option<String> {
            serde_json::from_slice::<serde_json::Value>(bytes).ok()?.get("directory")?.as_str().map(str::to_owned)
        };
        if directory(&bytes).as_ref() != Some(&self.settings.directory_url) {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&bytes);
        Ok(parsed
            .inspect_err(|error| {
                log::warn!("acme `{}`: the account that was kept cannot be read: {error}", self.settings.name)
            })
            .ok())
    }

    fn builder(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(CaClient::new(self.settings.ca_pem.clone(), self.asked.clone())))
    }

    fn key(&self) -> String {
        format!("acme/{}/account", segment(&self.settings.name))
    }
}
